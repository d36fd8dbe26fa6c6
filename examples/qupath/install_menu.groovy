/*
 * Puts the scripts of this folder into QuPath's menu: Extensions ▸ LymphInfer.
 *
 * Change: `scriptsFolder` below, the folder of the scripts; while it is null, the script asks for it.
 * Runs in: the script editor (Run). The menu lasts until QuPath ends; to have it always, set
 * scriptsFolder and name this file in Edit ▸ Preferences ▸ General ▸ Startup script path.
 * For QuPath 0.5 to 0.7. See README.md.
 */
import javafx.application.Platform
import javafx.scene.control.MenuItem
import qupath.fx.dialogs.Dialogs
import qupath.fx.dialogs.FileChoosers

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The folder of the scripts, such as '/home/me/lymphinfer/examples/qupath'. null: ask
String scriptsFolder = null

// What the menu shows, and what it runs.
Map<String, String> commands = [
    'Run on this image or its selected annotations': 'run_lymphinfer.groovy',
    'Run on every image of the project': 'run_project.groovy',
    'Import results': 'import_detections.groovy',
    'Import tissue and focus': 'import_tissue.groovy',
    'Classify the nuclei that are here': 'classify_nuclei.groovy',
    'Count by annotation and margin': 'count_regions.groovy',
    'Suggest nuclei to name': 'suggest_nuclei.groovy',
    'Teach with the named nuclei': 'teach_bundle.groovy',
    'Export annotations': 'export_annotations.groovy',
    'Export detections and cells': 'export_detections.groovy',
]

// ---- Work ----------------------------------------------------------------------------------

def qupath = getQuPath()
if (qupath == null)
    throw new RuntimeException('Without a window there is no menu; run this in the script editor.')
def folder = scriptsFolder == null ? FileChoosers.promptForDirectory('The folder of the LymphInfer scripts', null) : new File(scriptsFolder)
if (folder == null)
    return
def missing = commands.values().findAll { !new File(folder, it).isFile() }
if (missing) {
    Dialogs.showErrorMessage('LymphInfer', "${folder} has no ${missing.join(', ')}. Set scriptsFolder at the top of this script.".toString())
    return
}
Platform.runLater {
    def menu = qupath.getMenu('Extensions>LymphInfer', true)
    // Run a second time, each command is there once.
    menu.getItems().clear()
    commands.each { name, file ->
        def item = new MenuItem(name)
        item.setOnAction { start(qupath, new File(folder, file)) }
        menu.getItems().add(item)
    }
}
println "Extensions ▸ LymphInfer runs the scripts of ${folder}; what they say is in View ▸ Show log."

/** Run a script beside the window, which would stand still as long as the script runs. */
void start(qupath, File file) {
    Thread.start('LymphInfer') {
        try {
            qupath.runScript(file, null)
        } catch (Throwable e) {
            Dialogs.showErrorMessage('LymphInfer', "${file.getName()}: ${e.message}".toString())
        }
    }
}
