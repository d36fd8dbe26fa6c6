/*
 * Writes the annotations of the open image as GeoJSON, with their names and classes, for
 * `lymphinfer predict --roi` and `--tissue`.
 *
 * Change: nothing, if the file may lie in PROJECT/annotations: one file an image, called like its slide,
 * so that the folder can be given to a prediction of many slides.
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -p PROJECT.qpproj export_annotations.groovy
 * For QuPath 0.5 to 0.7. See README.md.
 */
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The file to write. null: PROJECT/annotations/SLIDE.geojson, beside the slide without a project
String file = null

// Only those that are selected.
boolean onlySelection = false

// Only those of these classes, such as ['Tumor', 'Stroma']. Empty: all
List<String> classes = []

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
// Points and lines have no inside.
def annotations = (onlySelection ? getSelectedObjects() : getAnnotationObjects()).findAll {
    it.isAnnotation() && it.hasROI() && it.getROI().isArea() &&
            (!classes || it.getPathClass()?.toString() in classes)
}
if (!annotations) {
    refuse('No annotation with an area is here: draw one, or change what is asked for at the top of this script.')
    return
}
file = file ?: defaultFile(imageData, 'annotations')
if (file == null) {
    refuse('The open image is no file of this computer: set `file` at the top of this script.')
    return
}
new File(file).getAbsoluteFile().getParentFile().mkdirs()
exportObjectsToGeoJson(annotations, file, 'FEATURE_COLLECTION', 'EXCLUDE_MEASUREMENTS')
println "${annotations.size()} annotations in ${file}"
annotations.countBy { it.getPathClass()?.toString() ?: 'without a class' }.each { name, number -> println "  ${name}: ${number}" }
println "Only the nuclei inside: lymphinfer predict SLIDE --roi \"${file}\""
println "As the tissue: lymphinfer predict SLIDE --tissue \"${file}\""

/** PROJECT/FOLDER/SLIDE.geojson, or FOLDER/SLIDE.geojson beside the slide where there is no project. */
String defaultFile(imageData, String folder) {
    def server = imageData.getServer()
    def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
    if (getProject() == null && slide == null)
        return null
    // PROJECT_BASE_DIR is a text that only an open project can resolve.
    def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
    def name = slide == null ? server.getMetadata().getName() : slide.getName()
    return new File(new File(base, folder), name + '.geojson').getPath()
}

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}
